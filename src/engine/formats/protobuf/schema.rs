//! Where messages are described: a `.proto` text or file, which is compiled here, or a compiled descriptor set.
//!
//! Files are read whenever the table is resolved, also after a restart: a file that is gone or was changed is noticed then.
//! Imports are looked for beside the file (or in `protobuf.include`); those of [`known_files`](super::known_files) are always there.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::engine::connectors::files::{io_error, local_path};
use crate::engine::connectors::options::OptionReader;
use crate::engine::error::Error;
use crate::engine::formats::protobuf::known_files::{KnownFiles, is_known_package};
use crate::error::{ErrorReport, SqlState, nearest};

/// The name that a text has in messages.
const TEXT_NAME: &str = "schema.proto";

/// A schema that a table gives.
pub struct Given {
    pub message: MessageDescriptor,
    /// Its text, unless it was compiled elsewhere.
    pub text: Option<String>,
}

/// The message that the options name, if they give a schema.
pub fn given(options: &OptionReader<'_>) -> Result<Option<Given>, Error> {
    let include = options.text("protobuf.include");
    let (pool, main, text) = match (
        options.text("protobuf.schema"),
        options.text("protobuf.schema_file"),
        options.text("protobuf.descriptor_file"),
    ) {
        (Some(text), None, None) => {
            let (pool, main) = compile_text(text, include)?;
            (pool, main, Some(text.to_owned()))
        }
        (None, Some(path), None) => {
            let (pool, main, text) = compile_file(path, include)?;
            (pool, main, Some(text))
        }
        (None, None, Some(path)) => (read_descriptors(path)?, None, None),
        (None, None, None) => return Ok(None),
        _ => {
            return Err(invalid(
                "format \"protobuf\" takes one schema".into(),
                "Give one of protobuf.schema, protobuf.schema_file and protobuf.descriptor_file.",
            ));
        }
    };
    let message = find(&pool, main.as_ref(), options.text("protobuf.message"))?;
    Ok(Some(Given { message, text }))
}

pub fn missing() -> Error {
    invalid(
        "format \"protobuf\" needs a schema".into(),
        "Give protobuf.schema (the text of a .proto file), protobuf.schema_file or protobuf.descriptor_file, or the connection \
         schema_registry.url.",
    )
}

/// A registered schema: `text` and the files that it imports, by name. Registries also have schemas as compiled descriptors in base64,
/// which is how some clients register them.
pub fn registered(text: &str, imports: &[(String, String)]) -> Result<FileDescriptor, String> {
    let name = format!("{}{TEXT_NAME}", "_".repeat(imports.len()));
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts {
        texts: [&[(name.clone(), text.to_owned())], imports].concat(),
        registered: true,
    });
    resolver.add(KnownFiles);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler
        .open_file(&name)
        .map_err(|error| format!("invalid Protobuf schema: {error:?}"))?;
    let file = compiler.descriptor_pool().get_file_by_name(&name);
    file.ok_or_else(|| "the Protobuf schema was compiled and is not there".to_owned())
}

fn invalid(message: String, hint: &str) -> Error {
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

/// Texts by the names that they have for the compiler.
struct Texts {
    texts: Vec<(String, String)>,
    /// They may be compiled descriptors.
    registered: bool,
}

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let Some((_, text)) = self.texts.iter().find(|(known, _)| known == name) else {
            return Err(protox::Error::file_not_found(name));
        };
        match compiled(text).filter(|_| self.registered) {
            Some(mut file) => {
                file.name = Some(name.to_owned());
                Ok(File::from_file_descriptor_proto(file))
            }
            None => File::from_source(name, text),
        }
    }
}

/// The descriptor that a text is in base64, in which no `.proto` file can be written: its syntax takes other characters.
pub fn compiled(text: &str) -> Option<FileDescriptorProto> {
    let bytes = BASE64.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty())?;
    FileDescriptorProto::decode(bytes.as_slice()).ok()
}

/// A message of this text.
#[cfg(any(test, feature = "fuzzing"))]
pub fn of_text(text: &str, name: &str) -> Result<MessageDescriptor, Error> {
    let (pool, main) = compile_text(text, None)?;
    find(&pool, main.as_ref(), Some(name))
}

fn compile_text(text: &str, include: Option<&str>) -> Result<(DescriptorPool, Option<FileDescriptor>), Error> {
    let folder = include
        .map(|folder| local_path("protobuf.include", folder))
        .transpose()?;
    compile(TEXT_NAME.to_owned(), text.to_owned(), folder)
}

fn compile_file(path: &str, include: Option<&str>) -> Result<(DescriptorPool, Option<FileDescriptor>, String), Error> {
    let path = local_path("protobuf.schema_file", path)?;
    let text = std::fs::read_to_string(&path).map_err(|error| io_error("read", path.display(), &error))?;
    let folder = match include {
        Some(folder) => local_path("protobuf.include", folder)?,
        None => path.parent().map(Path::to_path_buf).unwrap_or_default(),
    };
    // Under the name that imports of it would use.
    let name = path.strip_prefix(&folder).unwrap_or(&path);
    let name = name.to_string_lossy().trim_start_matches('/').replace('\\', "/");
    let (pool, main) = compile(name, text.clone(), Some(folder))?;
    Ok((pool, main, text))
}

fn compile(
    name: String,
    text: String,
    include: Option<PathBuf>,
) -> Result<(DescriptorPool, Option<FileDescriptor>), Error> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts {
        texts: vec![(name.clone(), text)],
        registered: false,
    });
    if let Some(folder) = include {
        resolver.add(IncludeFileResolver::new(folder));
    }
    resolver.add(KnownFiles);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    // The compiler's own words with file, line and column are those of its Debug.
    compiler.open_file(&name).map_err(|error| {
        Error::Option(
            ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid Protobuf schema: {error:?}"),
            )
            .with_hint(
                "The place is file, line and column. Imports are looked for beside the file, or in protobuf.include.",
            ),
        )
    })?;
    let pool = compiler.descriptor_pool();
    let main = pool.get_file_by_name(&name);
    Ok((pool, main))
}

fn read_descriptors(path: &str) -> Result<DescriptorPool, Error> {
    let path = local_path("protobuf.descriptor_file", path)?;
    let bytes = std::fs::read(&path).map_err(|error| io_error("read", path.display(), &error))?;
    DescriptorPool::decode(bytes.as_slice()).map_err(|error| {
        invalid(
            format!(
                "invalid Protobuf descriptor set in file \"{}\": {error}",
                path.display()
            ),
            "Write it with protoc --include_imports --descriptor_set_out=FILE, or with buf build -o FILE.",
        )
    })
}

/// The message of this name, which may leave out the package; without a name the only one.
pub fn find(
    pool: &DescriptorPool,
    main: Option<&FileDescriptor>,
    name: Option<&str>,
) -> Result<MessageDescriptor, Error> {
    let offered: Vec<MessageDescriptor> = match main {
        Some(main) => main.messages().collect(),
        None => pool
            .all_messages()
            .filter(|message| message.parent_message().is_none() && !is_known_package(message.package_name()))
            .collect(),
    };
    let names = || {
        let names: Vec<&str> = offered.iter().map(MessageDescriptor::full_name).collect();
        format!("The messages are: {}.", names.join(", "))
    };
    let Some(name) = name.map(|name| name.trim().trim_start_matches('.')) else {
        return match offered.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(invalid("the Protobuf schema has no message".into(), "Define one.")),
            _ => Err(invalid("option \"protobuf.message\" is missing".into(), &names())),
        };
    };
    if let Some(message) = pool.get_message_by_name(name) {
        return Ok(message);
    }
    let ending = format!(".{name}");
    let mut matching = pool
        .all_messages()
        .filter(|message| message.full_name().ends_with(&ending) && !message.is_map_entry());
    match (matching.next(), matching.next()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => Err(invalid(
            format!("message name \"{name}\" is ambiguous"),
            &format!("Say for example {} or {}.", one.full_name(), other.full_name()),
        )),
        _ => {
            let hint = match nearest(name, offered.iter().map(MessageDescriptor::full_name)) {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\". {}", names()),
                None => names(),
            };
            Err(invalid(
                format!("message \"{name}\" does not exist in the Protobuf schema"),
                &hint,
            ))
        }
    }
}
