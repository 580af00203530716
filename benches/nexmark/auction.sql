-- View: what is for sale.
SELECT auction.id AS id, auction.item_name AS item_name, auction.description AS description, auction.initial_bid AS initial_bid,
       auction.reserve AS reserve, date_time, auction.expires AS expires, auction.seller AS seller, auction.category AS category,
       auction.extra AS extra
FROM nexmark WHERE auction IS NOT NULL
