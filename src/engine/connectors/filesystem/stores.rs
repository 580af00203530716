//! Object stores by URL: what reads and lists them, and what uploads files in parts.

use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

#[derive(Clone)]
pub struct Stores {
    pub objects: Arc<dyn ObjectStore>,
    /// `None`: files can only be read.
    pub uploads: Option<Arc<dyn MultipartStore>>,
}

/// The store and the path inside it. No I/O.
pub fn open(url: &Url, settings: Vec<(&'static str, String)>) -> Result<(Stores, ObjectPath), object_store::Error> {
    macro_rules! built {
        ($builder:ty) => {{
            let mut builder = <$builder>::new().with_url(url.to_string());
            for (name, value) in settings {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = Arc::new(builder.build()?);
            Stores {
                objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
                uploads: Some(store as Arc<dyn MultipartStore>),
            }
        }};
    }
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let stores = match scheme {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder),
        _ => Stores {
            objects: Arc::from(object_store::parse_url_opts(url, settings)?.0),
            uploads: None,
        },
    };
    Ok((stores, path))
}
