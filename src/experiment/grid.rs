//! A grid declared in a file: lists of values for settings of the model and of the recipe.

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use super::{Base, Changes, ExperimentError, Variant, variant::plain};
use crate::model::{ModelKind, Setting};

/// Variants of a grid, at most: more are a mistyped list.
const MOST: usize = 10_000;

/// A declared grid. A setting has a value, or a list of values to try; every combination is a variant.
///
/// ```
/// let grid = sesrec::experiment::Grid::parse(r#"
///     seeds = [1, 2, 3]
///     [model]
///     model = "sesrec"
///     threshold = ["mean", "median", 0.125]
///     loss_weights.align = 0.1
///     [recipe]
///     learning_rate = [1e-3, 3e-4]
/// "#).unwrap();
/// assert_eq!(grid.len(), 6);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// The file's seeds, if it has any.
    pub seeds: Option<Vec<u64>>,
    axes: Vec<Axis>,
}

#[derive(Debug, Clone, PartialEq)]
struct Axis {
    part: Part,
    name: String,
    values: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Model,
    Recipe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFile {
    seeds: Option<Vec<u64>>,
    #[serde(default)]
    model: toml::Table,
    #[serde(default)]
    recipe: toml::Table,
}

impl Grid {
    /// From TOML.
    ///
    /// # Errors
    /// Names the line or the key.
    pub fn parse(text: &str) -> Result<Self, ExperimentError> {
        let file: GridFile = toml::from_str(text).map_err(|error| ExperimentError::Declaration(error.to_string()))?;
        let mut axes = vec![];
        for (part, table) in [(Part::Model, file.model), (Part::Recipe, file.recipe)] {
            collect(part, "", table, &mut axes)?;
        }
        let grid = Self { seeds: file.seeds, axes };
        match grid.axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.values.len())) {
            Some(..=MOST) => Ok(grid),
            _ => Err(ExperimentError::Declaration(format!("the grid has more than {MOST} combinations"))),
        }
    }

    /// How many variants it has.
    pub fn len(&self) -> usize {
        self.axes.iter().map(|axis| axis.values.len()).product()
    }

    /// A grid has at least one variant.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its variants, the last setting changing fastest.
    ///
    /// # Errors
    /// Names the setting that there is none of, or whose value can't be.
    pub fn variants(&self, base: &Base<'_>) -> Result<Vec<Variant>, ExperimentError> {
        (0..self.len()).map(|n| self.variant(n, base)).collect()
    }

    fn variant(&self, number: usize, base: &Base<'_>) -> Result<Variant, ExperimentError> {
        let (mut kind, mut changes, mut rest) = (ModelKind::default(), Changes::default(), number);
        let mut varied = vec![];
        for axis in self.axes.iter().rev() {
            let value = &axis.values[rest % axis.values.len()];
            rest /= axis.values.len();
            let setting = Setting { name: axis.name.clone(), value: value.clone() };
            if axis.values.len() > 1 {
                varied.insert(0, setting.clone());
            }
            match axis.part {
                Part::Model if axis.name == "model" => kind = kind_of(value)?,
                Part::Model => changes.model.insert(0, setting),
                Part::Recipe => changes.recipe.insert(0, setting),
            }
        }
        let name = match &varied[..] {
            [] => kind_name(kind),
            varied => varied.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let mut variant = base.variant(&name, kind, &changes)?;
        variant.settings = varied.into_iter().map(|Setting { name, value }| (name, plain(&value))).collect();
        Ok(variant)
    }
}

/// Tables below tables are settings with dots in their names.
fn collect(part: Part, prefix: &str, table: toml::Table, axes: &mut Vec<Axis>) -> Result<(), ExperimentError> {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let fail = |message: String| Err(ExperimentError::Declaration(format!("{}{name}: {message}", part.prefix())));
        let values = match value {
            toml::Value::Table(table) => {
                collect(part, &format!("{name}."), table, axes)?;
                continue;
            }
            toml::Value::Array(values) if values.is_empty() => return fail("the list has no value".into()),
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        let values: Result<Vec<Value>, _> = values.into_iter().map(serde_json::to_value).collect();
        match values {
            Ok(values) => axes.push(Axis { part, name, values }),
            Err(error) => return fail(error.to_string()),
        }
    }
    Ok(())
}

impl Part {
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "model.",
            Self::Recipe => "recipe.",
        }
    }
}

fn kind_of(value: &Value) -> Result<ModelKind, ExperimentError> {
    let known = || ModelKind::all().iter().map(|&kind| kind_name(kind)).collect::<Vec<_>>().join(", ");
    value
        .as_str()
        .and_then(|name| ModelKind::from_str(name, true).ok())
        .ok_or_else(|| ExperimentError::Declaration(format!("model.model: {value} is none of: {}", known())))
}

/// A model's name, as on the command line.
pub(super) fn kind_name(kind: ModelKind) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
