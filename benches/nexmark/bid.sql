-- View: what is offered.
SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, bid.channel AS channel, bid.url AS url, date_time,
       bid.extra AS extra
FROM nexmark WHERE bid IS NOT NULL
