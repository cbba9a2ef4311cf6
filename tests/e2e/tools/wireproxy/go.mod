module larder/e2e/tools/wireproxy

go 1.25.0
