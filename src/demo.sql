-- The demo: an auction house of the built-in generator, ten thousand events a second, and three continuous queries over it.

CREATE TABLE IF NOT EXISTS auction_events WITH (connector = 'nexmark', event_rate = 10000);

CREATE VIEW bids AS
SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, bid.channel AS channel
FROM auction_events
WHERE bid IS NOT NULL;

-- One row every ten seconds and auction, when the window closes.
CREATE PIPELINE IF NOT EXISTS bids_per_auction WITH (state_ttl = '1 hour') AS
SELECT bid.auction AS auction, TUMBLE(INTERVAL '10 seconds') AS window, count(*) AS bids, max(bid.price) AS highest
FROM auction_events
WHERE bid IS NOT NULL
GROUP BY bid.auction, window;

-- One row a channel, always up to date.
CREATE PIPELINE IF NOT EXISTS channels AS
SELECT channel, count(*) AS bids, sum(price) AS volume, max(price) AS highest
FROM bids
GROUP BY channel;
