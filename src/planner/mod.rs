//! SQL text to job graph: bind, rewrite, physical, graph. Pure and synchronous.
