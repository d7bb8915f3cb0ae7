# storewatch, built by nixpkgs. Without the flake: pkgs.callPackage ./nix/package.nix { }
{ lib, rustPlatform }:

let
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit (manifest.package) version;

  # What cargo reads, so that an edited document does not mean a new build. Two documents are among it: tests
  # parse their examples.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../benches
      ../docs/commands.md
      ../docs/policy.md
      ../src
      ../tests/it
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  # nixpkgs writes a configuration of cargo's of its own.
  env.JEMALLOC_SYS_WITH_MALLOC_CONF =
    (lib.importTOML ../.cargo/config.toml).env.JEMALLOC_SYS_WITH_MALLOC_CONF;

  # The other tests drive a real Nix in stores of their own; `make test` runs them.
  cargoTestFlags = [ "--lib" ];

  meta = {
    inherit (manifest.package) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "storewatch";
    platforms = lib.platforms.linux ++ lib.platforms.darwin;
  };
}
