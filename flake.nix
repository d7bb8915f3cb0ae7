{
  description = "storewatch watches a Nix store and puts every newly valid path into binary caches";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      eachSystem = make: nixpkgs.lib.genAttrs systems (system: make system nixpkgs.legacyPackages.${system});
    in
    {
      packages = eachSystem (
        system: pkgs: {
          storewatch = pkgs.callPackage ./nix/package.nix { };
          default = self.packages.${system}.storewatch;
        }
      );

      devShells = eachSystem (
        system: pkgs: {
          default = pkgs.callPackage ./nix/shell.nix { inherit (self.packages.${system}) storewatch; };
        }
      );

      checks = eachSystem (system: _: { inherit (self.packages.${system}) storewatch; });
    };
}
