//! The `laminar` program: reads the command line and the configuration, then hands over to the server or the shell.

use std::process::ExitCode;

use clap::Parser;
use laminar::config::{Command, Config, Flags};
use laminar::error::{ErrorReport, Report};
use laminar::{logging, server, shell};

/// Small allocations on many threads are what operators and decoders do all day.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::load(&flags.settings).and_then(|config| config.validate().map(|()| config)) {
        Ok(config) => config,
        Err(error) => return fail(&error.report()),
    };
    match flags.command {
        Some(Command::Sql {
            host,
            user,
            database,
            execute,
        }) => {
            let address = host.unwrap_or_else(|| config.sql_listen.to_string());
            match shell::run(
                &address,
                &user,
                &database,
                config.password.as_ref().map(|p| p.reveal()),
                &execute,
            ) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
        command => {
            if let Err(error) = logging::start(&config.log, config.log_format) {
                return fail(&error);
            }
            let objects = if command == Some(Command::Demo) {
                server::Objects::Demo
            } else {
                server::Objects::AsStored
            };
            match server::run(config, objects) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
    }
}

/// Says what went wrong as psql would, on standard error.
fn fail(error: &ErrorReport) -> ExitCode {
    eprintln!("laminar: {error} ({})", error.code);
    if let Some(detail) = &error.detail {
        eprintln!("DETAIL:  {detail}");
    }
    if let Some(hint) = &error.hint {
        eprintln!("HINT:  {hint}");
    }
    ExitCode::FAILURE
}
