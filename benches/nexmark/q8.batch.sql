SELECT DISTINCT p.id, p.name, p.starts
FROM (SELECT id, name, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '1970-01-01 00:00:00') AS starts FROM person) AS p
JOIN (SELECT seller, date_bin(INTERVAL '10 seconds', date_time, TIMESTAMP '1970-01-01 00:00:00') AS starts FROM auction) AS a
ON p.id = a.seller AND p.starts = a.starts
