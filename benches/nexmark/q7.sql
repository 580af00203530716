-- The highest bids of every ten seconds.
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b JOIN (SELECT max(price) AS most, TUMBLE(INTERVAL '10 seconds') AS window FROM bid GROUP BY window) AS m
ON b.price = m.most AND b.date_time BETWEEN m.window.end - INTERVAL '10 seconds' AND m.window.end
