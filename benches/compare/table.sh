# shellcheck shell=bash
# From the numbers of `run` to tables and plots.

# Of each server and row the last measurement counts. What moves bytes is told per GB, all else per request.
readonly TABLES='
BEGIN { FS = "," }
{ key = $1 SUBSEP $2
  if (!($1 in server)) { server[$1] = ++servers; server_at[servers] = $1 }
  if (!($2 in row)) { row[$2] = ++rows; row_at[rows] = $2 }
  requests[key] = $3; bytes[key] = $4; seconds[key] = $5; cpu[key] = $6; peak[key] = $7 / 1024
  if ($4 / $3 > 65536) large[$2] = 1 }
function table(title, what,    i, j, key, line) {
  printf "\n%s\n\n| |", title
  for (j = 1; j <= servers; j++) printf " %s |", server_at[j]
  printf "\n| --- |"
  for (j = 1; j <= servers; j++) printf " --- |"
  print ""
  for (i = 1; i <= rows; i++) {
    if (what == "cpu-gb" && !large[row_at[i]] || what == "cpu-request" && large[row_at[i]]) continue
    line = "| " row_at[i] " |"
    for (j = 1; j <= servers; j++) {
      key = server_at[j] SUBSEP row_at[i]
      line = line " " (key in cpu ? cell(what, key, row_at[i]) : "") " |"
    }
    print line
  } }
function cell(what, key, name) {
  if (what == "cpu-gb") return sprintf("%.2f", cpu[key] / bytes[key] * 1e9)
  if (what == "cpu-request") return sprintf("%.0f", cpu[key] / requests[key] * 1e6)
  if (what == "peak") return sprintf("%.0f", peak[key])
  return large[name] ? sprintf("%.2f GB", bytes[key] / seconds[key] / 1e9) : sprintf("%.0f", requests[key] / seconds[key]) }
END {
  table("CPU seconds of the server per GB", "cpu-gb")
  table("CPU microseconds of the server per request", "cpu-request")
  table("Requests, or bytes, per second", "rate")
  table("Peak resident memory in MiB", "peak") }'

# Bars of one of the tables, from its Markdown.
plot() { # title file; a table on standard input
  local title=$1 file=$2 data
  data=$(mktemp)
  awk -F'|' '$2 ~ /---/ { next } { line = ""; for (i = 2; i < NF; i++) { gsub(/^ +| +$/, "", $i); line = line (i > 2 ? "\t" : "") ($i == "" ? (NR == 1 ? "row" : "?") : $i) } print line }' >"$data"
  local columns
  columns=$(awk -F'\t' 'NR == 1 { print NF }' "$data")
  gnuplot <<PLOT
set terminal svg size 900,420 dynamic background "white" font "sans,12"
set output "$file"
set datafile separator "\t"
set datafile missing "?"
set title "$title"
set style data histograms
set style fill solid 0.8 noborder
set yrange [0:*]
set key outside top horizontal
set xtics rotate by -20 scale 0
set grid ytics
plot for [i=2:$columns] "$data" using i:xtic(1) title columnheader(i)
PLOT
  rm -f "$data"
}

between() { # title file: the table behind a title
  awk -v title="$1" '$0 == title { on = 1; next } on && /^\|/ { print; seen = 1; next } on && seen { exit }' "$2"
}

render() { # directory
  local out=$1
  if [ -f "$out/results.csv" ]; then
    awk "$TABLES" "$out/results.csv" >"$out/results.md"
    cat "$out/results.md"
    between 'CPU seconds of the server per GB' "$out/results.md" | plot 'CPU seconds per GB' "$out/bytes.svg"
    between 'CPU microseconds of the server per request' "$out/results.md" | plot 'CPU microseconds per request' "$out/requests.svg"
  fi
  if [ -f "$out/growth.csv" ]; then
    # As columns: 1,000 blobs, 100,000, 1,000,000.
    awk -F, 'BEGIN { OFS = "," } { if (match($2, /[0-9]+ blobs/)) { split(substr($2, RSTART), n, " "); name = substr($2, 1, RSTART - 1) substr($2, RSTART + RLENGTH)
      sub(/( with )|(, $)/, "", name); sub(/, *$/, "", name); $1 = n[1] " blobs"; $2 = name } print }' "$out/growth.csv" >"$out/growth-columns.csv"
    awk "$TABLES" "$out/growth-columns.csv" | awk '/^CPU micro/ { on = 1 } /^Requests/ { on = 0 } on' >"$out/growth.md"
    [ ! -f "$out/starts" ] || sort -u -k3,3n "$out/starts" >>"$out/growth.md"
    cat "$out/growth.md"
    between 'CPU microseconds of the server per request' "$out/growth.md" | plot 'CPU microseconds per request, by blobs in the store' "$out/growth.svg"
  fi
}
