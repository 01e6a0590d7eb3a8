using Vmm.Server;

return await Daemon.RunAsync(args);
