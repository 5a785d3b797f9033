#!/usr/bin/env bash
# Size of the house: files, lines, median, p90 and longest file per folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
printf '%-22s %6s %7s %7s %5s %5s  %s\n' folder files lines median p90 max longest
git ls-files '*.cc' '*.h' '*.proto' '*.sh' '*.py' '*.bzl' |
  while read -r file; do
    folder=$(dirname "$file")
    case "$folder" in
      worker/* | router/* | tests/*) folder=$(cut -d/ -f1-2 <<<"$folder") ;;
      *) folder=${folder%%/*} ;;
    esac
    echo "$folder $(wc -l <"$file") $file"
  done | sort -k1,1 -k2,2n | awk '
    function flush() {
      if (n == 0) return
      printf "%-22s %6d %7d %7d %5d %5d  %s\n", folder, n, total,
        lines[int((n + 1) / 2)], lines[int((n * 9 + 9) / 10)], lines[n], last
    }
    $1 != folder { flush(); folder = $1; n = 0; total = 0 }
    { n++; lines[n] = $2; total += $2; last = $3; all++; sum += $2 }
    END { flush(); printf "%-22s %6d %7d\n", "all", all, sum }'
