"""HTTP in OpenAI's shape -> pictures: protocol, app, and the two ways to run the stages behind it."""
