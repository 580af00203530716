//! The frozen hash of keys, version 1: decides the key group of every row, now and after every upgrade.
//!
//! Canonical bytes of a value decide its hash, never its Arrow type: INT 5 and BIGINT 5 meet in one group.
