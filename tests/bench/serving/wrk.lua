-- Posts the bodies of some files in turn and prints one line of JSON: what load.py reads.
-- A .jsonl file has one body on each line, any other file is one body. The headers come from wrk's -H.
local requests, at = {}, 0
local function add(body) requests[#requests + 1] = wrk.format("POST", nil, nil, body) end
function init(args)
  for _, name in ipairs(args) do
    if name:match("%.jsonl$") then
      for line in io.lines(name) do add(line) end
    else
      local file = assert(io.open(name, "rb"))
      add(file:read("*a"))
      file:close()
    end
  end
  at = math.random(#requests)
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %f, "non_2xx": %d, "failed": %d, "p50_ms": %f, "p99_ms": %f, "p999_ms": %f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
