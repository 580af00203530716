//! DROP: RESTRICT and CASCADE are the catalog's; running pipelines end once they are gone from it.

use crate::catalog::change::Change;
use crate::frontend::error::Result;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::Drop;

pub async fn drop_objects(session: &mut Session, drop: &Drop) -> Result<Response> {
    let snapshot = session.snapshot();
    let path = session.search_path();
    let targets = drop
        .names
        .iter()
        .map(|name| (drop.kind, snapshot.qualify(drop.kind, name, &path)))
        .collect();
    let change = Change::Drop {
        targets,
        if_exists: drop.if_exists,
        cascade: drop.cascade,
    };
    session.apply(vec![change]).await?;
    Ok(Response::complete(drop.tag))
}
