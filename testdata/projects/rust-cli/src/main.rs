fn main() {
    let name = std::env::args().nth(1).unwrap_or_else(|| "nobody".to_string());
    let mut buffer = itoa::Buffer::new();
    println!("{name} has {} letters", buffer.format(name.chars().count()));
}
