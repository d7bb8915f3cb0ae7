//! The one thing that storewatch wants to know of a derivation: for which system it builds.
//!
//! A `.drv` is `Derive(OUTPUTS,INPUT_DERIVATIONS,INPUT_SOURCES,"SYSTEM","BUILDER",…)`, each of the first three a list in
//! brackets, with strings in quotes, in which a backslash takes the next character as it is (Nix's
//! `src/libstore/derivations.cc`, `parseDerivation`). A floating one begins with `DrvWithVersion("xp-dyn-drv",` instead.

/// The system that a derivation, as the text of its `.drv`, builds for. `None` where the text is no derivation.
#[must_use]
pub fn system_of(drv: &str) -> Option<String> {
    let fields = drv.strip_prefix("Derive(").or_else(|| drv.strip_prefix("DrvWithVersion(\"xp-dyn-drv\","))?;
    let (mut depth, mut commas, mut at) = (0_u32, 0, 0);
    while commas < 3 {
        let c = *fields.as_bytes().get(at)?;
        match c {
            b'"' => at = end_of_string(fields, at)?,
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => commas += 1,
            _ => {}
        }
        at += 1;
    }
    let end = end_of_string(fields, at)?;
    // No system has a character that would be written with a backslash.
    fields.get(at + 1..end).filter(|system| !system.is_empty() && !system.contains('\\')).map(str::to_owned)
}

/// Where the string that begins at `start`, with its quote, has its closing one.
fn end_of_string(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_found_behind_whatever_comes_first() {
        let drv = r#"Derive([("out","/nix/store/x-a","","")],[("/nix/store/y-b.drv",["out","d\"e,v"])],["/nix/store/z-c"],"x86_64-linux","/bin/sh",["-c","[,"],[("system","other")])"#;
        assert_eq!(system_of(drv).as_deref(), Some("x86_64-linux"));
        let dynamic = r#"DrvWithVersion("xp-dyn-drv",[],[],[],"aarch64-darwin","/bin/sh",[],[])"#;
        assert_eq!(system_of(dynamic).as_deref(), Some("aarch64-darwin"));
        for nonsense in
            ["", "Derive(", "Derive([],[],[],", r#"Derive([],[],[],"x"#, "Derive(]", r#"Derive([],[],[],"","#]
        {
            assert_eq!(system_of(nonsense), None, "{nonsense}");
        }
    }
}
