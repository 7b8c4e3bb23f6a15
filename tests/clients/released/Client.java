import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The JDK's client as shipped, under Spring AI, LangChain4j and others: it offers an upgrade to HTTP/2 with its requests. */
public class Client {
    private static final Pattern JOB = Pattern.compile("\\{\"url\": \"(.*?)\", \"body\": (.*)\\}");

    /** Jobs as in clients.py, with `url` first. An answer is the body that came. */
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        BufferedReader jobs = new BufferedReader(new InputStreamReader(System.in));
        for (String line = jobs.readLine(); line != null; line = jobs.readLine()) {
            Matcher job = JOB.matcher(line);
            job.matches();
            HttpRequest request = HttpRequest.newBuilder(URI.create(job.group(1)))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(job.group(2)))
                .build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
