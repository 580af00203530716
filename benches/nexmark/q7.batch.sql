SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b JOIN (
    SELECT max(price) AS most, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '1970-01-01 00:00:00') AS starts
    FROM bid GROUP BY 2) AS m
ON b.price = m.most AND b.date_time BETWEEN m.starts AND m.starts + INTERVAL '10 seconds'
