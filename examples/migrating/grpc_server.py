import asyncio

import grpc


async def search(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    if not request:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "what for?")
    await asyncio.sleep(1)
    return request.upper()


async def main(address: str = "127.0.0.1:3000") -> None:
    server = grpc.aio.server(maximum_concurrent_rpcs=1024)
    handlers = {"Search": grpc.unary_unary_rpc_method_handler(search)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
    server.add_insecure_port(address)
    await server.start()
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(10)


if __name__ == "__main__":
    asyncio.run(main())
