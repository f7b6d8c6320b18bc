//! The program `quiz`.

fn main() -> std::process::ExitCode {
    quiz::main()
}
