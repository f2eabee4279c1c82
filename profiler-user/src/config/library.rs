//! All symbol maps there are: the user's, in folders, and the built-in ones.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::MapError;
use super::load::{built_in, names_a_file, read};
use super::map::{MapOrigin, SymbolMap};
use super::nearest::nearest;
use super::parse::parse_map;

/// More maps than this in one folder are not read: it is the wrong folder.
const MAX_MAPS: usize = 1000;

/// A symbol map and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The map.
    pub map: SymbolMap,
    /// Its text.
    pub text: String,
    /// Where another map of its name is, which this one stands for.
    pub overrides: Option<MapOrigin>,
}

/// A map in a folder that cannot be used.
#[derive(Debug)]
pub struct Broken {
    /// The name it would have: as it says, else that of its file.
    name: String,
    /// Why not; names the file.
    pub error: MapError,
}

/// Every symbol map that can be named by name, the user's first.
#[derive(Debug, Default)]
pub struct Library {
    known: Vec<Known>,
    broken: Vec<Broken>,
}

/// The folders that are always searched, the first first: `${XDG_CONFIG_HOME:-~/.config}/qprof/maps`
/// and `/etc/qprof/maps`. Under `sudo` the home is root's as a rule.
#[must_use]
pub fn usual_folders() -> Vec<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    config.into_iter().chain([PathBuf::from("/etc")]).map(|path| path.join("qprof/maps")).collect()
}

impl Library {
    /// Reads the maps of `folders`, of the [usual ones](usual_folders), and the built-in ones. The
    /// first map of a name stands for all others. A folder of the usual ones that is not there is
    /// empty.
    ///
    /// # Errors
    ///
    /// [`MapError::Folder`] if one of `folders` cannot be read; and those of built-in maps, of which
    /// the tests see to it that there are none.
    pub fn read(folders: &[PathBuf]) -> Result<Self, MapError> {
        Self::read_with(folders, &usual_folders())
    }

    fn read_with(folders: &[PathBuf], usual: &[PathBuf]) -> Result<Self, MapError> {
        let mut library = Self::default();
        for folder in folders {
            library.add_folder(folder).map_err(|error| folder_error(folder, error))?;
        }
        for folder in usual {
            match library.add_folder(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let error = folder_error(folder, error);
                    library.broken.push(Broken { name: String::new(), error });
                }
                _ => {}
            }
        }
        for own in built_in() {
            library.add(own.parse()?, own.text.to_owned());
        }
        Ok(library)
    }

    fn add_folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .collect();
        files.sort();
        if files.len() > MAX_MAPS {
            return Err(io::Error::other(format!(
                "it holds {} .toml files, more than {MAX_MAPS}: is it a folder of symbol maps?",
                files.len()
            )));
        }
        for path in files {
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) => {
                    let name = stem(&path);
                    let error = MapError::Unreadable { path, error };
                    self.broken.push(Broken { name, error });
                    continue;
                }
            };
            match parse_map(&text, MapOrigin::File(path.clone())) {
                Ok(map) => self.add(map, text),
                Err(error) => {
                    let name = name_in(&text).unwrap_or_else(|| stem(&path));
                    self.broken.push(Broken { name, error });
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, map: SymbolMap, text: String) {
        match self.known.iter_mut().find(|known| known.map.name == map.name) {
            // What the last one stands for, the built-in one, matters most.
            Some(first) => first.overrides = Some(map.origin),
            None => self.known.push(Known { map, text, overrides: None }),
        }
    }

    /// The maps: the user's, folder by folder and by file name, then the built-in ones.
    #[must_use]
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// The maps in the folders that cannot be used.
    #[must_use]
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// The map of a name.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, if it is broken; else [`MapError::UnknownName`] with the nearest names.
    pub fn find(mut self, name: &str) -> Result<Known, MapError> {
        // The broken one first: what it was to stand for must not be taken instead in silence.
        if let Some(index) = self.broken.iter().position(|broken| broken.name == name)
            && !self.known.iter().any(|known| known.map.name == name && known.is_own())
        {
            return Err(self.broken.swap_remove(index).error);
        }
        if let Some(index) = self.known.iter().position(|known| known.map.name == name) {
            return Ok(self.known.swap_remove(index));
        }
        let names = || self.known.iter().map(|known| known.map.name.as_str());
        Err(MapError::UnknownName {
            name: name.to_owned(),
            nearest: nearest(name, names(), 3).into_iter().map(str::to_owned).collect(),
            known: names().map(str::to_owned).collect(),
        })
    }
}

impl Known {
    /// Whether it is the user's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.map.origin != MapOrigin::BuiltIn
    }
}

/// The map a user names with `-m`: a path where it contains `/` or ends in `.toml`, otherwise the
/// name of a map in `folders`, in the usual ones, or of a built-in one.
///
/// # Errors
///
/// [`MapError::Unreadable`], and those of [`Library::read`], [`Library::find`] and [`parse_map`].
pub fn load_map(name_or_path: &str, folders: &[PathBuf]) -> Result<Known, MapError> {
    if !names_a_file(name_or_path) {
        return Library::read(folders)?.find(name_or_path);
    }
    let path = Path::new(name_or_path);
    let text =
        read(path).map_err(|error| MapError::Unreadable { path: path.to_path_buf(), error })?;
    let map = parse_map(&text, MapOrigin::File(path.to_path_buf()))?;
    Ok(Known { map, text, overrides: None })
}

fn folder_error(folder: &Path, error: io::Error) -> MapError {
    MapError::Folder { path: folder.to_path_buf(), error }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name a map gives itself, though another thing is wrong with it.
fn name_in(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    toml::from_str(text).ok().map(|Named { name }| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str) -> String {
        format!(
            "version = 1\nname = \"{name}\"\nsystem = \"s\"\n[[span]]\nname = \"a\"\n\
             function = \"f\"\nroot = true\n"
        )
    }

    fn names(library: &Library) -> Vec<&str> {
        library.known().iter().map(|known| known.map.name.as_str()).collect()
    }

    #[test]
    fn the_first_map_of_a_name_stands_for_the_others() {
        let (first, usual) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(first.path().join("b.toml"), map("milvus-lite")).unwrap();
        fs::write(first.path().join("a.toml"), map("own")).unwrap();
        fs::write(first.path().join("readme.txt"), "no map").unwrap();
        fs::write(usual.path().join("c.toml"), map("own")).unwrap();
        let missing = usual.path().join("missing");
        let folders = [first.path().to_path_buf()];
        let usual = [missing.clone(), usual.path().to_path_buf()];
        let read = || Library::read_with(&folders, &usual).unwrap();
        let library = read();
        assert_eq!(names(&library)[..2], ["own", "milvus-lite"]);
        assert_eq!(library.known().len(), built_in().len() + 1);
        assert!(library.broken().is_empty());
        let own = read().find("own").unwrap();
        assert_eq!(own.map.origin, MapOrigin::File(first.path().join("a.toml")));
        assert_eq!(own.overrides, Some(MapOrigin::File(usual[1].join("c.toml"))));
        assert_eq!(own.text, map("own"));
        let over = read().find("milvus-lite").unwrap();
        assert_eq!((over.is_own(), over.overrides), (true, Some(MapOrigin::BuiltIn)));
        let error = Library::read_with(&[missing], &[]).unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("maps_dir"), "{error}");
    }

    #[test]
    fn a_broken_map_matters_only_if_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: String| fs::write(folder.path().join(file), text).unwrap();
        write("mine.toml", map("milvus-lite").replace("root", "rot"));
        write("other.toml", "version =".to_owned());
        write("fine.toml", map("fine"));
        fs::create_dir(folder.path().join("dir.toml")).unwrap();
        let folders = [folder.path().to_path_buf()];
        let read = || Library::read_with(&folders, &[]).unwrap();
        assert_eq!(read().broken().len(), 3);
        assert_eq!(read().find("fine").unwrap().map.name, "fine");
        let told = |name| read().find(name).unwrap_err().to_string();
        assert!(told("milvus-lite").contains("mine.toml:7:1"), "{}", told("milvus-lite"));
        assert!(told("other").contains("other.toml:1:"), "{}", told("other"));
        assert!(told("dir").contains("dir.toml"), "{}", told("dir"));
        assert!(told("fien").contains("did you mean `fine`"), "{}", told("fien"));
    }
}
