-- The demo's users. `proof` is HMAC-SHA256(salt, password), both in hex; the passwords are in
-- README.md. `also` are permissions of this person beyond those of the role.
return {
  ada = {
    role = "admin",
    salt = "75bec2e89c353432cd1b241b9f1d07b8",
    proof = "8492cec1f863f13a7265f54d547ad8de4ba42702bcf572b4adcba2f2fb98f5f8",
  },
  max = {
    role = "member",
    also = { "write news" },
    salt = "2d0726820a7fde05db4b41c7965af26a",
    proof = "aa5bff9d9eb545997fa597e66236c4c8fb80c09b686023ae4a194fc1335dbbc4",
  },
  vic = {
    role = "viewer",
    salt = "cae8521c23df083ddfe3bba27f160d59",
    proof = "ed07129bbeb8e95267842d0d5cb887749cc633cf6b08db8735c443a9b9279735",
  },
}
