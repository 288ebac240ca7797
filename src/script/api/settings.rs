//! `relay.config` and `relay.env`: what the configuration gives a script.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, rc::Rc};

use mlua::{Lua, Result, Table, Value};

use crate::script::{Context, args, plain};

pub fn register(lua: &Lua, relay: &Table, context: &Rc<Context>) -> Result<()> {
    let settings = plain::from_plain(lua, &context.app.settings)?;
    plain::freeze(lua, &settings)?;
    relay.raw_set("config", settings)?;

    let (app, instead) = (context.app.clone(), context.env.clone());
    let env = lua.create_function(move |lua, name: Value| {
        let name = args::string("relay.env(name)", "name", &name)?.to_string_lossy();
        if !app.env.contains(&name) {
            let what = format!(
                "\"{name}\" is not among the names that the setting env of app {} lists: add it there",
                app.name
            );
            return Err(args::mistake("relay.env(name)", &what));
        }
        let value = match &instead {
            Some(env) => env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone().into_bytes()),
            None => std::env::var_os(&name).map(OsString::into_vec),
        };
        value.map(|value| lua.create_string(value)).transpose()
    })?;
    relay.raw_set("env", env)
}

#[cfg(test)]
mod tests {
    use crate::script::api::tests::{check, check_raises};

    #[test]
    fn a_script_reads_its_settings_and_cannot_write_them() {
        check("assert(relay.config.secret == 's') assert(relay.config.other == nil)");
        check_raises("relay.config.secret = 'x'", "readonly");
    }

    #[test]
    fn the_environment_is_read_only_through_listed_names() {
        check("assert(#relay.env('PATH') > 0) assert(relay.env('MOONWIRE_TEST_UNSET') == nil)");
        check_raises("relay.env('HOME')", "\"HOME\" is not among the names that the setting env of app chat lists");
        check_raises("relay.env()", "name must be a string, got nil");
    }
}
