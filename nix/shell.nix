# A shell to work on storewatch in: what builds it, what checks it, and a Nix for its tests.
{
  mkShell,
  storewatch,
  cargo-deny,
  cargo-nextest,
  clippy,
  nix,
  rust-analyzer,
  rustfmt,
  sqlite,
}:

mkShell {
  inputsFrom = [ storewatch ];
  packages = [
    cargo-deny
    cargo-nextest
    clippy
    rust-analyzer
    rustfmt
    # To look into the queue and into Nix's database.
    sqlite
  ];

  # The tests run `NIX_NEW_BIN`'s Nix. Those that need Nix 2.8 say that they are skipped, unless NIX_2_8_BIN names one.
  NIX_NEW_BIN = "${nix}/bin";
}
