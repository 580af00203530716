-- View: bids whose time is when they came.
SELECT bid.auction AS auction, bid.bidder AS bidder FROM nexmark_by_arrival WHERE bid IS NOT NULL
