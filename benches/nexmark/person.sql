-- View: who sells and bids.
SELECT person.id AS id, person.name AS name, person.email_address AS email_address, person.credit_card AS credit_card,
       person.city AS city, person.state AS state, date_time, person.extra AS extra
FROM nexmark WHERE person IS NOT NULL
