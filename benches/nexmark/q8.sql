-- New people who open an auction in the same ten seconds.
SELECT p.id, p.name, p.window.start AS starts
FROM (SELECT id, name, TUMBLE(INTERVAL '10 seconds') AS window FROM person GROUP BY id, name, window) AS p
JOIN (SELECT seller, TUMBLE(INTERVAL '10 seconds') AS window FROM auction GROUP BY seller, window) AS a
ON p.id = a.seller AND p.window = a.window
