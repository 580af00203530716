SELECT bidder, count(*) AS bid_count, min(date_time) AS starts, max(date_time) + INTERVAL '10 seconds' AS ends
FROM (SELECT bidder, date_time, sum(new) OVER (PARTITION BY bidder ORDER BY date_time ROWS UNBOUNDED PRECEDING) AS session
      FROM (SELECT bidder, date_time,
                   CASE WHEN date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) < INTERVAL '10 seconds'
                        THEN 0 ELSE 1 END AS new
            FROM bid) AS paused) AS numbered
GROUP BY bidder, session
