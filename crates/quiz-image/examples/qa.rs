//! Temporary.
#![allow(missing_docs, clippy::disallowed_methods)]
use quiz_image::*;
struct R(std::time::Instant);
struct P(String, std::time::Instant, bool);
impl Report for R {
    fn say(&self, line: &str) {
        eprintln!("[{:.2}] quiz: {line}", self.0.elapsed().as_secs_f32());
    }
    fn start(&self, what: &str, total: Option<u64>, _u: Unit) -> Box<dyn Progress> {
        eprintln!("[{:.2}] start {what} {total:?}", self.0.elapsed().as_secs_f32());
        Box::new(P(what.into(), std::time::Instant::now(), false))
    }
}
impl Progress for P {
    fn at(&self, _d: u64) {}
    fn total(&self, _t: u64) {}
    fn note(&self, t: &str) {
        eprintln!("  note {t}");
    }
    fn done(mut self: Box<Self>) {
        self.2 = true;
        eprintln!("  done {} in {:.2}", self.0, self.1.elapsed().as_secs_f32());
    }
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let cache = Cache::at(args[1].clone().into());
    let r = R(std::time::Instant::now());
    let arch = quiz_arch::find(&args[3]).unwrap();
    match args[2].as_str() {
        "kernel" => {
            let w = debian::Wanted {
                source: apt::Source {
                    release: args[4].clone(),
                    mirrors: args.get(6).cloned().into_iter().collect(),
                    keyring: None,
                },
                arch,
                package: args.get(5).filter(|s| !s.is_empty()).cloned(),
            };
            match debian::add_kernel(&cache, &w, std::env::var("REPLACE").is_ok(), &r) {
                Ok(k) => println!("{:#?}\n{}", k.manifest, k.dir().display()),
                Err(e) => {
                    println!("ERROR {e}");
                    std::process::exit(1)
                }
            }
        }
        "initramfs" => {
            let k = kernel::find(&cache, arch, None, &r).unwrap().unwrap();
            let agent = std::fs::read(&args[4]).unwrap();
            let m: Vec<&str> = args[5..].iter().map(String::as_str).collect();
            match initramfs::make(&cache, &k, &agent, &m, &r) {
                Ok(i) => println!("{} {}", k.boot().display(), i.path.display()),
                Err(e) => {
                    println!("ERROR {e}");
                    std::process::exit(1)
                }
            }
        }
        "root" => {
            let w = root::Wanted { source: apt::Source::debian(&args[4]), arch, packages: args[5..].to_vec() };
            match root::build(&cache, &w, std::env::var("REPLACE").is_ok(), &r) {
                Ok(k) => {
                    println!("{:?} {} {} {}", k.name(), k.image().display(), k.manifest.size, k.manifest.packages.len())
                }
                Err(e) => {
                    println!("ERROR {e}");
                    std::process::exit(1)
                }
            }
        }
        _ => panic!(),
    }
    eprintln!("total {:.2}", r.0.elapsed().as_secs_f32());
}
