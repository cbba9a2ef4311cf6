module larder/e2e/tools/cutproxy

go 1.25.0
