-- View: the bounded table of q13.
SELECT column1 AS key, column2 AS value
FROM (VALUES (0, 'zero'), (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four'), (5, 'five'), (6, 'six'), (7, 'seven'), (8, 'eight')) AS v
