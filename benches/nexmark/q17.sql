-- Prices of each auction and day.
SELECT auction, CAST(date_time AS DATE) AS day,
       count(*) AS total_bids,
       count(*) FILTER (WHERE price < 10000) AS rank1_bids,
       count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
       count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
       min(price) AS least, max(price) AS most, avg(price) AS average, sum(price) AS total
FROM bid GROUP BY auction, CAST(date_time AS DATE)
