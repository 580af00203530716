-- Bids with the day and the minute of their file.
SELECT auction, bidder, price, date_time, extra, CAST(CAST(date_time AS DATE) AS TEXT) AS day,
       substr(CAST(CAST(date_time AS TIME) AS TEXT), 1, 5) AS minute
FROM bid
