//! The CSV files.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz};

use super::{
    Summary, TRUTH_FILE,
    user::{Label, Origin, Shown, User},
    world::World,
};
use crate::data::DatasetError;

/// The files being written.
pub(super) struct Logs {
    recommendations: LogFile,
    searches: LogFile,
    items: LogFile,
    users: LogFile,
    truth: LogFile,
    summary: Summary,
}

impl Logs {
    pub fn create(dir: &Path) -> Result<Self, DatasetError> {
        let header = |name: &str, columns: &str| LogFile::create(dir.join(name), columns);
        Ok(Self {
            recommendations: header(
                "rec_inter.csv",
                "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related",
            )?,
            searches: header(
                "src_inter.csv",
                "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,\
                 click_cnt,item_type",
            )?,
            items: header(
                "item_features.csv",
                "item_id,caption,author_id,item_type,upload_time,upload_type,first_level_category_id,\
                 first_level_category_name_en,second_level_category_id,second_level_category_name_en",
            )?,
            users: header(
                "user_features.csv",
                "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2",
            )?,
            truth: header(TRUTH_FILE, "user_id,event,search_session_id,item_id,timestamp,label,origin,topic")?,
            summary: Summary::default(),
        })
    }

    pub fn items(&mut self, world: &World) -> Result<(), DatasetError> {
        for item in 0..world.items {
            let topic = world.topic_of(item);
            let category = world.category_of(topic);
            let kind = if item % 20 == 13 { "AD" } else { "NORMAL" };
            self.items.row(format_args!(
                "{},\"{}\",{},{kind},2023-05-01,Web,{},c{},{},{}",
                world.item_name(item),
                world.caption(item),
                item % 997,
                category + 1,
                category + 1,
                topic + 1,
                world.topic_name(topic),
            ))?;
        }
        self.summary.items = world.items.into();
        Ok(())
    }

    pub fn user(&mut self, world: &World, user: &User) -> Result<(), DatasetError> {
        let id = format!("u{}", user.number + 1);
        let [a, b, c, d] = user.features;
        self.users.row(format_args!("{id},{a},{b},{c},{d}"))?;
        for shown in &user.shown {
            self.shown(world, &id, shown)?;
        }
        for search in &user.searches {
            self.summary.searches += 1;
            let session = self.summary.searches;
            let (time, truth) = (search.time, search.truth);
            let clock = beijing(time);
            for &(item, clicked) in &search.results {
                self.summary.results += 1;
                self.searches.row(format_args!(
                    "{id},{session},{clock},{time},\"{}\",{},{},{},VIDEO",
                    search.query,
                    search.source,
                    world.item_name(item),
                    u8::from(clicked)
                ))?;
            }
            self.truth.row(format_args!(
                "{id},search,{session},,{time},{},{},{}",
                truth.label.name(),
                truth.origin.name(),
                world.topic_name(truth.topic)
            ))?;
            let spontaneous = truth.origin == Origin::Spontaneous;
            self.summary.spontaneous += u64::from(spontaneous);
            self.summary.dissimilar += u64::from(spontaneous && truth.label == Label::Dissimilar);
        }
        self.summary.users += 1;
        Ok(())
    }

    fn shown(&mut self, world: &World, user: &str, shown: &Shown) -> Result<(), DatasetError> {
        let item = world.item_name(shown.item);
        let Shown { time, duration, played, .. } = *shown;
        let (click, search) = (u8::from(shown.clicked.is_some()), u8::from(shown.search));
        let like = u8::from(shown.clicked.is_some() && time % 23 == 0);
        let clock = beijing(time);
        self.recommendations.row(format_args!(
            "{user},{item},{played},{duration},{clock},{time},{click},0,{like},0,{search},{search}"
        ))?;
        let Some(truth) = shown.clicked else {
            self.summary.unclicked += 1;
            return Ok(());
        };
        self.summary.clicks += 1;
        self.truth.row(format_args!(
            "{user},recommendation,,{item},{time},{},{},{}",
            truth.label.name(),
            truth.origin.name(),
            world.topic_name(truth.topic)
        ))
    }

    /// Waits until everything is on disk.
    pub fn finish(self, world: &World) -> Result<Summary, DatasetError> {
        for file in [self.recommendations, self.searches, self.items, self.users, self.truth] {
            file.finish()?;
        }
        Ok(Summary { topics: world.topics().into(), ..self.summary })
    }
}

struct LogFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl LogFile {
    fn create(path: PathBuf, header: &str) -> Result<Self, DatasetError> {
        let file = File::create(&path).map_err(DatasetError::io(&path))?;
        let mut created = Self { path, writer: BufWriter::with_capacity(1 << 18, file) };
        created.row(format_args!("{header}"))?;
        Ok(created)
    }

    fn row(&mut self, row: std::fmt::Arguments<'_>) -> Result<(), DatasetError> {
        writeln!(self.writer, "{row}").map_err(DatasetError::io(&self.path))
    }

    fn finish(self) -> Result<(), DatasetError> {
        let file = self.writer.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(DatasetError::io(&self.path))
    }
}

/// Wall-clock time as KuaiSAR writes it.
fn beijing(milliseconds: i64) -> impl std::fmt::Display {
    // In range: synthetic times lie within years of 2023.
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    tz::offset(8).to_datetime(time).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
