//! What Postgres keeps for the whole server: schemas, databases, roles, access methods, collations, settings, sessions.

use super::names::{
    BOOTSTRAP_ROLE, BOOTSTRAP_ROLE_OID, BTREE_OID, DATABASE_OID, DEFAULT_COLLATION_OID, DEFAULT_TABLESPACE_OID,
    HEAP_OID, INFORMATION_SCHEMA_OID, INTERNAL_LANGUAGE_OID, LAMINAR_SCHEMA_OID, PG_CATALOG_OID, role_names, role_oid,
};
use super::rows::{Rows, row};
use super::{Activity, SessionFacts, SettingFacts};
use crate::catalog::objects::Object;
use crate::catalog::snapshot::CatalogSnapshot;

/// Postgres's number of UTF8.
const UTF8: i32 = 6;
/// Text is ordered by bytes.
const COLLATION: &str = "C";

pub(super) fn pg_namespace(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    let built_in = [
        (PG_CATALOG_OID, "pg_catalog"),
        (INFORMATION_SCHEMA_OID, "information_schema"),
        (LAMINAR_SCHEMA_OID, "laminar"),
    ];
    for (oid, name) in built_in {
        row!(rows, oid = oid, nspname = name, nspowner = BOOTSTRAP_ROLE_OID);
    }
    for object in snapshot.objects() {
        if let Object::Schema(schema) = object {
            let owner = role_oid(&schema.header.owner);
            row!(
                rows,
                oid = schema.header.oid,
                nspname = &schema.header.name,
                nspowner = owner
            );
        }
    }
}

pub(super) fn pg_database(rows: &mut Rows, facts: &SessionFacts) {
    row!(
        rows,
        oid = DATABASE_OID,
        datname = &facts.database,
        datdba = BOOTSTRAP_ROLE_OID,
        encoding = UTF8,
        datlocprovider = "c",
        datallowconn = true,
        datconnlimit = -1,
        dattablespace = DEFAULT_TABLESPACE_OID,
        datcollate = COLLATION,
        datctype = COLLATION,
    );
}

/// `pg_authid` and `pg_roles` have the same columns but for the order.
pub(super) fn pg_roles(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    for name in role_names(snapshot, &facts.user) {
        let bootstrap = name == BOOTSTRAP_ROLE;
        row!(
            rows,
            oid = role_oid(name),
            rolname = name,
            rolsuper = bootstrap,
            rolinherit = true,
            rolcreaterole = bootstrap,
            rolcreatedb = bootstrap,
            rolcanlogin = true,
            rolreplication = bootstrap,
            rolbypassrls = bootstrap,
            rolconnlimit = -1,
        );
    }
}

/// `pg_user` and `pg_shadow`.
pub(super) fn pg_user(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    for name in role_names(snapshot, &facts.user) {
        let bootstrap = name == BOOTSTRAP_ROLE;
        row!(
            rows,
            usename = name,
            usesysid = role_oid(name),
            usecreatedb = bootstrap,
            usesuper = bootstrap,
            userepl = bootstrap,
            usebypassrls = bootstrap,
        );
    }
}

pub(super) fn pg_am(rows: &mut Rows) {
    for (oid, name, kind) in [(HEAP_OID, "heap", "t"), (BTREE_OID, "btree", "i")] {
        row!(rows, oid = oid, amname = name, amtype = kind);
    }
}

pub(super) fn pg_tablespace(rows: &mut Rows) {
    for (oid, name) in [(DEFAULT_TABLESPACE_OID, "pg_default"), (1664, "pg_global")] {
        row!(rows, oid = oid, spcname = name, spcowner = BOOTSTRAP_ROLE_OID);
    }
}

pub(super) fn pg_language(rows: &mut Rows) {
    for (oid, name) in [(INTERNAL_LANGUAGE_OID, "internal"), (14, "sql")] {
        row!(rows, oid = oid, lanname = name, lanowner = BOOTSTRAP_ROLE_OID);
    }
}

pub(super) fn pg_collation(rows: &mut Rows) {
    let collations = [
        (DEFAULT_COLLATION_OID, "default", "d", None),
        (950, "C", "c", Some(COLLATION)),
        (951, "POSIX", "c", Some("POSIX")),
    ];
    for (oid, name, provider, locale) in collations {
        row!(
            rows,
            oid = oid,
            collname = name,
            collnamespace = PG_CATALOG_OID,
            collowner = BOOTSTRAP_ROLE_OID,
            collprovider = provider,
            collisdeterministic = true,
            collencoding = -1,
            collcollate = locale,
            collctype = locale,
        );
    }
}

pub(super) fn pg_settings(rows: &mut Rows, settings: &[SettingFacts]) {
    for setting in settings {
        row!(
            rows,
            name = &setting.name,
            setting = &setting.value,
            unit = setting.unit.clone(),
            category = "Laminar",
            short_desc = &setting.description,
            context = if setting.settable { "user" } else { "internal" },
            vartype = setting.kind,
            source = if setting.value == setting.default {
                "default"
            } else {
                "session"
            },
            boot_val = &setting.default,
            reset_val = &setting.default,
            pending_restart = false,
        );
    }
}

pub(super) fn pg_stat_activity(rows: &mut Rows, facts: &SessionFacts) {
    for Activity {
        process,
        user,
        application_name,
        client_address,
        client_port,
        started_at_micros,
        statement_started_at_micros,
        state,
        query,
    } in &facts.activity
    {
        row!(
            rows,
            datid = DATABASE_OID,
            datname = &facts.database,
            pid = *process,
            usesysid = role_oid(user),
            usename = user,
            application_name = application_name,
            client_addr = client_address.clone(),
            client_port = *client_port,
            backend_start = *started_at_micros,
            query_start = *statement_started_at_micros,
            state = *state,
            query = query,
            backend_type = "client backend",
        );
    }
}
