def _v(v, esc=True):
    if isinstance(v, str): return f"<escape>{v}<escape>"
    if v is True: return "true"
    if v is False: return "false"
    if isinstance(v, list): return "[" + ",".join(map(_v, v)) + "]"
    if isinstance(v, dict): return "{" + ",".join(f"{k}:{_v(v[k])}" for k in sorted(v, key=str.lower)) + "}"
    return str(v)
def _props(p):
    out = []
    for k in sorted(p, key=str.lower):
        s = p[k]; t = s.get("type", "").upper()
        x = f"{k}:{{description:<escape>{s.get('description','')}<escape>"
        if t == "STRING" and s.get("enum"): x += ",enum:[" + ",".join(map(_v, s["enum"])) + "]"
        if t == "OBJECT":
            x += ",properties:{" + _props(s.get("properties", {})) + "}"
            if s.get("required"): x += ",required:[" + ",".join(map(_v, s["required"])) + "]"
        if t == "ARRAY" and s.get("items"):
            x += ",items:{" + ",".join(f"{a}:<escape>{b.upper()}<escape>" for a, b in s["items"].items()) + "}"
        out.append(x + f",type:<escape>{t}<escape>}}")
    return ",".join(out)
def _decl(t):
    f = t["function"]; p = f.get("parameters") or {}
    x = f"<start_function_declaration>declaration:{f['name']}{{description:<escape>{f['description']}<escape>"
    if p:
        x += ",parameters:{"
        if p.get("properties"): x += "properties:{" + _props(p["properties"]) + "},"
        if p.get("required"): x += "required:[" + ",".join(map(_v, p["required"])) + "],"
        x += f"type:<escape>{p['type'].upper()}<escape>}}"
    return x + "}<end_function_declaration>"
def segments(row):
    """[(text, trained)]"""
    out, m, tools = [], row["messages"], row["tools"]
    s = "<bos>"; i = 0
    if tools or m[0]["role"] == "developer":
        s += "<start_of_turn>developer\n"
        if m[0]["role"] == "developer": s += m[0]["content"].strip(); i = 1
        s += "".join(map(_decl, tools)) + "<end_of_turn>\n"
    prev = None
    for n, x in enumerate(m[i:]):
        last = i + n == len(m) - 1
        if x["role"] == "tool":
            s += f"response:{x['name']}" + _v(x["content"] if isinstance(x["content"], dict) else {"value": x["content"]}) + "<end_function_response>"
        elif x["role"] == "assistant":
            if prev != "tool": s += "<start_of_turn>model\n"
            out.append((s, False)); s = ""
            c = (x.get("content") or "").strip()
            if x.get("tool_calls"):
                c += "".join(f"<start_function_call>call:{t['function']['name']}" + _v(t["function"]["arguments"]) + "<end_function_call>" for t in x["tool_calls"]) + "<start_function_response>"
                out.append((c, True))
            else:
                out.append((c + "<end_of_turn>", True)); s = "\n"
        else:
            s += f"<start_of_turn>{x['role']}\n{(x['content'] or '').strip()}<end_of_turn>\n"
        prev = x["role"]
    if s.strip(): out.append((s, False))
    return out
