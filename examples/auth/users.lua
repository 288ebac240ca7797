-- The demo's users; the passwords are in README.md. `hash` is what relay.password.hash gave for one.
-- `allow` and `deny` are rules of this person, beyond those of the role: `deny` wins, whatever the role becomes.
return {
  ada = {
    role = "admin",
    hash = "$argon2id$v=19$m=19456,t=2,p=1$ePeRMJoOGo3TFdvUsQw2xA$ZEzzR44kawbpCyUHBqX/ECBmSfToasrrU+LFuTDE9IE",
  },
  max = {
    role = "member",
    allow = { "publish team.news" },
    deny = { "join team.board" },
    hash = "$argon2id$v=19$m=19456,t=2,p=1$swC7oh013b7EZsUePEe6fw$TmJHdocAwcN2MkETQJmjibxP50uPu/vZBvi4xab6nlw",
  },
  vic = {
    role = "viewer",
    hash = "$argon2id$v=19$m=19456,t=2,p=1$Zw0ipt65gK0KFL0eID8YfA$scnQ+nBjt4Cx2v3iBF2MoRrdGWchs7S5QppfpJGCqcc",
  },
}
