// Reads a stored adapter (docs/format.md) in Rust, with the standard library alone:
//   rustc -O --edition 2021 adapter.rs && ./adapter runs/first query < vectors.txt
// One vector a line, numbers separated by spaces. A program with a JSON library would use that; here
// `after` finds keys in the order in which coreframe writes them.
use std::{env, fs, io};

fn after<'a>(text: &'a str, keys: &[&str]) -> &'a str {
    keys.iter().fold(text, |rest, key| {
        let key = format!("\"{key}\"");
        let at = rest.find(&key).unwrap_or_else(|| panic!("{key} is missing"));
        rest[at + key.len()..].trim_start_matches([' ', ':', '['])
    })
}

fn value<T: std::str::FromStr>(text: &str) -> T {
    let end = text.find([',', '}', ']', '\n']).unwrap_or(text.len());
    text[..end].trim().parse().unwrap_or_else(|_| panic!("{text:.20} cannot be read"))
}

struct Matrix { numbers: Vec<f32>, width: usize }

impl Matrix {
    fn read(file: &[u8], name: &str) -> Matrix {
        let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&file[8..start]).unwrap();
        assert!(after(header, &[name, "dtype"]).starts_with("\"F32\""), "{name} is not float32");
        let shape = after(header, &[name, "shape"]).split(']').next().unwrap();
        let offsets = after(header, &[name, "data_offsets"]);
        let (begin, end) = (value::<usize>(offsets), value::<usize>(&offsets[offsets.find(',').unwrap() + 1..]));
        let bytes = file[start + begin..start + end].chunks_exact(4);
        let numbers = bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Matrix { numbers, width: value(shape.rsplit(',').next().unwrap()) }
    }
    fn times(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len() * self.width, self.numbers.len(), "the widths do not fit");
        (0..self.width).map(|j| x.iter().enumerate().map(|(i, v)| v * self.numbers[i * self.width + j] as f64).sum()).collect()
    }
}

fn main() {
    let [folder, side] = [1, 2].map(|i| env::args().nth(i).expect("usage: adapter FOLDER query|document"));
    let config = fs::read_to_string(format!("{folder}/config.json")).expect("config.json");
    let file = fs::read(format!("{folder}/model.safetensors")).expect("model.safetensors");
    assert!(after(&config, &["format"]).starts_with("\"coreframe-adapter\""), "not an adapter");
    assert_eq!(value::<u32>(after(&config, &["version"])), 1, "another version of the format");
    let form = after(&config, &["sides", &side, "form"]);
    let scaling: f64 = value(after(&config, &["sides", &side, "scaling"]));
    let bias: bool = value(after(&config, &["sides", &side, "bias"]));
    let normalize: bool = value(after(&config, &["normalize"]));
    let read = |key: &str| Matrix::read(&file, &format!("{side}.{key}"));
    let (linear, low_rank) = (form.starts_with("\"linear\""), form.starts_with("\"low_rank\""));
    assert!(linear || low_rank || form.starts_with("\"identity\""), "unknown form");
    let (w, a, b) = (linear.then(|| read("W")), low_rank.then(|| read("A")), low_rank.then(|| read("B")));
    let shift = bias.then(|| read("b"));
    for line in io::stdin().lines() {
        let x: Vec<f64> = line.unwrap().split_whitespace().map(|v| v.parse().expect("a number")).collect();
        assert_eq!(x.len(), value::<usize>(after(&config, &["dimensions"])), "another width");
        let mut y = w.as_ref().map_or(x.clone(), |w| w.times(&x));
        if let (Some(a), Some(b)) = (&a, &b) {
            y.iter_mut().zip(b.times(&a.times(&x))).for_each(|(y, v)| *y += scaling * v);
        }
        if let Some(shift) = &shift {
            y.iter_mut().zip(&shift.numbers).for_each(|(y, v)| *y += *v as f64);
        }
        let length = y.iter().map(|v| v * v).sum::<f64>().sqrt();
        let divisor = if normalize && length > 0.0 { length } else { 1.0 };
        println!("{}", y.iter().map(|v| (v / divisor).to_string()).collect::<Vec<_>>().join(" "));
    }
}
