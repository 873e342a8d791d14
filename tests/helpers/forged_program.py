"""An object that runs code when unpickled."""


class Program:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))
