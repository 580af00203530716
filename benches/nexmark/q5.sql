-- The auctions with most bids of the last ten seconds, every two seconds.
WITH counted AS (
    SELECT auction, HOP(INTERVAL '2 seconds', INTERVAL '10 seconds') AS window, count(*) AS num
    FROM bid GROUP BY auction, window)
SELECT c.auction, c.num, c.window.start AS starts
FROM counted AS c JOIN (SELECT window, max(num) AS most FROM counted GROUP BY window) AS m
ON c.window = m.window AND c.num >= m.most
