-- How many bids a bidder makes in every ten seconds of the clock; added up, since nobody can know when rows will come.
SELECT bidder, sum(bid_count) AS bid_count
FROM (SELECT bidder, TUMBLE(INTERVAL '10 seconds') AS window, count(*) AS bid_count FROM bid_by_arrival GROUP BY bidder, window) AS counted
GROUP BY bidder
