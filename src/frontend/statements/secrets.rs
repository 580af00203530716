//! CREATE SECRET; ALTER SECRET is in `alter`.

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Object, Secret, SecretSource};
use crate::frontend::body::new_header;
use crate::frontend::error::Result;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::{CreateSecret, SecretText};
use crate::ids::{PublicIdKind, new_public_id};

pub async fn create(session: &mut Session, create: &CreateSecret) -> Result<Response> {
    let name = session.name_to_create(&create.name)?;
    let mut header = new_header(&name);
    header.owner.clone_from(&session.user);
    // The value is sealed for this id: a row copied elsewhere cannot be opened.
    header.public_id = new_public_id(PublicIdKind::Secret);
    let source = seal(session, &header.public_id, &create.source)?;
    let object = NewObject {
        object: Object::Secret(Secret { header, source }),
        depends_on: Vec::new(),
    };
    let change = Change::Create {
        object,
        if_not_exists: create.if_not_exists,
        or_replace: false,
    };
    session.apply(vec![change]).await?;
    Ok(Response::complete("CREATE SECRET"))
}

pub(crate) fn seal(session: &Session, public_id: &str, text: &SecretText) -> Result<SecretSource> {
    Ok(match text {
        SecretText::Value(value) => session.server.catalog.seal_secret(public_id, value)?,
        SecretText::Environment(variable) => SecretSource::Environment(variable.clone()),
        SecretText::File(path) => SecretSource::File(path.clone()),
    })
}
