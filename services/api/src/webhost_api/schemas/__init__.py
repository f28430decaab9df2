"""The JSON of requests and answers, in camelCase; optional fields without a value are left out."""
