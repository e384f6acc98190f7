-- The requests of one operation, for wrk. The file that the first argument names describes them: lines that begin with
-- METHOD, HEADER, BODY, PATH (one line for each path) and PACE.
--
-- Paths take turns. PACE names a file with a number of milliseconds, which each connection waits before its next
-- request; without it, connections do not wait.

local requests, turn = {}, 0

function init(args)
  local method, body, paths, headers = "GET", nil, {}, {}
  for line in io.lines(args[1]) do
    local key, value = line:match("^(%u+) (.*)$")
    if key == "METHOD" then
      method = value
    elseif key == "HEADER" then
      local name, content = value:match("^([^:]+): (.*)$")
      headers[name] = content
    elseif key == "BODY" then
      body = value
    elseif key == "PATH" then
      paths[#paths + 1] = value
    elseif key == "PACE" then
      -- wrk asks for a delay only if this function exists once init has returned.
      function delay()
        local file = io.open(value)
        local milliseconds = file and tonumber(file:read("*l")) or 0
        if file then
          file:close()
        end
        return milliseconds
      end
    end
  end
  for index, path in ipairs(paths) do
    requests[index] = wrk.format(method, path, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

-- Times are in microseconds. "status" counts responses with a status above 399.
function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": {"connect": %d, "read": %d, '
      .. '"write": %d, "status": %d, "timeout": %d}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  ))
end
