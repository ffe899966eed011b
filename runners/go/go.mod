module runner

go 1.22

require github.com/santhosh-tekuri/jsonschema/v5 v5.3.1
