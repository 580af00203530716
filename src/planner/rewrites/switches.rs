//! Rewrites that make a query faster or its state smaller and change nothing else; each can be switched off.
//!
//! `CREATE PIPELINE .. WITH (disabled_rewrites = 'local_global, join_bounds')`: to find out what one does, or to go round
//! one that is suspected. The results are the same either way, which the random queries check; only rows that come too late are
//! another matter, as a join without a bound has no notion of late. Rewrites without which a query cannot run at all (rankings,
//! windows) have no switch.

use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rewrite {
    /// Rows are aggregated where they are before they are sent to the subtask of their group.
    LocalGlobal,
    /// Equal parts of a pipeline's queries run once.
    SharedSubplans,
    /// A join forgets rows for which its conditions on time let no partner come any more.
    JoinBounds,
    /// Groups of which each lies within one key of a join are aggregated where they are joined.
    GroupJoin,
}

impl Rewrite {
    pub const ALL: [Rewrite; 4] = [
        Rewrite::LocalGlobal,
        Rewrite::SharedSubplans,
        Rewrite::JoinBounds,
        Rewrite::GroupJoin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Rewrite::LocalGlobal => "local_global",
            Rewrite::SharedSubplans => "shared_subplans",
            Rewrite::JoinBounds => "join_bounds",
            Rewrite::GroupJoin => "group_join",
        }
    }
}

/// Those that are switched off.
pub type DisabledRewrites = BTreeSet<Rewrite>;

/// Names with commas between them; the name that there is not.
pub fn parse(text: &str) -> Result<DisabledRewrites, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let called = |rewrite: &Rewrite| rewrite.name().eq_ignore_ascii_case(name);
            Rewrite::ALL.into_iter().find(called).ok_or_else(|| name.to_owned())
        })
        .collect()
}
