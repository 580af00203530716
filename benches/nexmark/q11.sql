-- How many bids a bidder makes before a pause of ten seconds.
SELECT bidder, bid_count, window.start AS starts, window.end AS ends
FROM (SELECT bidder, SESSION(INTERVAL '10 seconds') AS window, count(*) AS bid_count FROM bid GROUP BY bidder, window) AS sessions
