import sockrpc

app = sockrpc.App()


@app.method("hello")
def hello(call: sockrpc.Call) -> str:
    return f"hello, {call.text}"
