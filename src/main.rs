//! The `sesrec` binary: parse, run, report.

use std::{process::ExitCode, time::Duration};

use sesrec::{
    cli::{self, Command},
    config::{self, ConfigError},
    failures::told_once,
    secrets::without_passwords,
    telemetry::logging,
};

/// Tensors of megabytes come and go with every training step. glibc gives such memory back to the kernel and faults it
/// in again, which took a third of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_candle_off_its_barrier_pool();
    end_where_nobody_reads();
    let args: Result<Vec<String>, _> = std::env::args_os().map(|arg| arg.into_string()).collect();
    let args = match args {
        Ok(args) => args,
        Err(arg) => {
            eprintln!("error: the argument {arg:?} is not UTF-8");
            return ExitCode::from(2);
        }
    };
    let cli = match config::parse(args) {
        Ok(cli) => cli,
        Err(ConfigError::Usage(error)) => return refused(&error),
        Err(error) => {
            eprintln!("error: {}", without_passwords(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A server has a log with settings of its own.
    if !matches!(cli.command, Command::Serve(_))
        && let Err(error) = logging::init_warnings()
    {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let ended = runtime.block_on(cli::run(cli));
    // What blocks still (a read of standard input, a model being loaded) can't be cancelled, and would be waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", without_passwords(&told_once(&error)));
            ExitCode::FAILURE
        }
    }
}

/// What clap says of the command line: of help that was asked for, too. It repeats what was typed.
fn refused(error: &clap::Error) -> ExitCode {
    let told = error.render().to_string();
    let hidden = without_passwords(&told);
    if !error.use_stderr() || hidden == told {
        error.exit();
    }
    eprint!("{hidden}");
    ExitCode::from(2)
}

/// Standard output that can't be written to, which `println!` panics for: a reader who has had enough (`| head`) is the
/// end, and nobody's fault; a full disk is an error like any other.
fn end_where_nobody_reads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        match message.strip_prefix("failed printing to stdout: ") {
            Some(reason) if reason.starts_with("Broken pipe") => std::process::exit(0),
            Some(reason) => {
                eprintln!("error: standard output: {reason}");
                std::process::exit(1);
            }
            None => report(panic),
        }
    }));
}

/// candle runs large element-wise operations on a pool whose threads wait for each other by spinning, behind one lock
/// for the process: beside anything else that runs (a second evaluation thread, another program), most of the time goes
/// there. Matrix products have their own threads (`RAYON_NUM_THREADS`). Measured on 2 cores: training is 4 % faster
/// without the pool on an idle machine, and twice as fast on a busy one.
fn keep_candle_off_its_barrier_pool() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // candle has no other switch. No thread exists yet that could read the environment meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(THREADS, "1");
        }
    }
}
