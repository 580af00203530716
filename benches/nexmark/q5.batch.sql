WITH counted AS (
    SELECT auction, date_bin(INTERVAL '2 seconds', date_time, TIMESTAMP '1970-01-01 00:00:00') - back AS starts, count(*) AS num
    FROM bid CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'), (INTERVAL '6 seconds'),
                                (INTERVAL '8 seconds')) AS hops(back)
    GROUP BY 1, 2)
SELECT c.auction, c.num, c.starts
FROM counted AS c JOIN (SELECT starts, max(num) AS most FROM counted GROUP BY starts) AS m
ON c.starts = m.starts AND c.num >= m.most
